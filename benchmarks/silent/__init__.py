"""Silent training errors that others have published, planted in loops of our own."""
