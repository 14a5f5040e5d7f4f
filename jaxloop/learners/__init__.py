"""What is fitted to rows and writes rows, and how loops are placed on devices."""
