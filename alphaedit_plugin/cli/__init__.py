"""The commands, one file each; ``main`` finds them, see `base.COMMANDS`."""
