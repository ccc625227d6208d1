"""What ledgers in a database share: tables, statements, the steps of a write, and migrations. Knows no driver."""
