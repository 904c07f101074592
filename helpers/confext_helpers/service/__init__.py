"""What systemd and the kernel say about one service, and what is remembered about it between reloads."""
