"""What goes wrong on long texts, what is said to help, what it costs, and when a change is more than chance."""
