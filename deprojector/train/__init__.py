"""Training of deprojectors."""
