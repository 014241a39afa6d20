"""How `head_roles` measures: its models and texts, the scores of every head, and heads without positions."""
