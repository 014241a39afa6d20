"""How `one_head_averages` measures: answers, weights and noise; and what equal weights leave unsaid."""
