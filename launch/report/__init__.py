"""What a run shows: the HTML report, its charts, the printed summary, the status."""
