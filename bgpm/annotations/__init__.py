"""What annotators said: how it is asked, kept, exchanged with other tools, and how far annotators agree.

| file | what it is |
|---|---|
| `questions.py` | the text of a question, as the page, the judge and other tools get it |
| `store.py` | an append-only file that loses no label |
| `exchange.py` | labels to and from CSV, JSONL, Argilla and Label Studio |
| `agreement.py` | how far people agree, and how often each errs |
"""
