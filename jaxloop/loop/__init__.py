"""The loop: knows a source, a learner and measures of rows, and never looks inside a row."""
