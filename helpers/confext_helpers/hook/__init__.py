"""What happens at a reload: the command that unit-confext-restack@.service runs."""
