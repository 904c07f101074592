"""What the service thinks of its future `/etc`: the `[X-Confext]` section and the commands of `Check=`."""
