"""H1 to H7, a module each, and the rule family that H7 uses as a control."""
