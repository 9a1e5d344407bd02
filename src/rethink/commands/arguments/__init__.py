"""What each command takes, one file each. The work is done elsewhere, and imported when a command runs: help stays fast."""
