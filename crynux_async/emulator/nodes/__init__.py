"""What the network's nodes do with a task: rounds, steps, and the archives that they deliver. No service is known."""
