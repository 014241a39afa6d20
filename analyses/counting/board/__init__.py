"""The board: what theory says of a task and an architecture, the nets that are asked, and what came out."""
