"""How many patients a unit will hold: who stays, who comes, and the distribution of their number."""
