"""The Crynux bridge over HTTP."""
