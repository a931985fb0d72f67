"""The commands of ``normmon``, one file each, named after the command; a file is imported when its command is typed."""
