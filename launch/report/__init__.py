"""What a run shows: the HTML report with its charts, the printed summary, and the status of a workdir."""
