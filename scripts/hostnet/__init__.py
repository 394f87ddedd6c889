"""The `hostnet` command: runs the project's playbooks through ansible-runner and says what happens."""
