"""Counting in texts that grow: what is trained and asked, and the sentence that counts cannot be told from."""
