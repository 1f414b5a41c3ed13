"""Annotations: their store, exchange with other tools, and agreement between annotators.

| file | what it is |
|---|---|
| `questions.py` | the text of a question, as the page, the judge and other tools get it |
| `store.py` | an append-only file that loses no label |
| `names.py` | one spelling a person |
| `gold.py` | pairs whose better response is known |
| `checks.py` | what annotators gave to gold pairs and to pairs that they are asked again |
| `haste.py` | annotations that are faster than anybody reads |
| `evidence.py`, `quality.py` | how well each annotates, and who needs a talk |
| `exchange.py` | labels to and from CSV, JSONL, Argilla and Label Studio |
| `argilla.py`, `label_studio.py` | the records of these tools |
| `choices.py` | what their records mean as annotations |
| `agreement.py` | how far people agree, and how often each errs |
"""
