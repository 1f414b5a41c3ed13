"""Labelling with people: a local page that asks them for the batch that the loop waits for.

| file | what it is |
|---|---|
| `batches.py` | what people are asked, found from what the stages left |
| `desk.py` | hands out pairs, takes answers, says how far the work is |
| `checking.py` | gold pairs and repeats among the pairs, which nobody can tell |
| `overview.py` | the campaign as a page: labels, money, curve, disagreement, the next batch |
| `templates/` | what lays that page out |
| `server.py` | both as a web server that listens to nobody else |
| `page/` | what runs in the browser: no library, no request to anywhere else |
"""
