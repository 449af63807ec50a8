"""What a run came to, for people: what it cost, and how its pictures look."""
