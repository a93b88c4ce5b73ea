"""How good search results are: judged questions, measures of rankings, and their differences."""
