"""What both emulated services serve with: answers, files, forms, and what can go wrong on the way."""
