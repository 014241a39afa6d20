"""What nets that count are asked, and what they tell."""
