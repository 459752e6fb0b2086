"""A different conditioning in every block of a U-Net: entries, mixing rules, the prompt syntax, XTI files."""
