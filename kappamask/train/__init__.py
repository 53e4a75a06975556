"""Training of the own network: may import every lower row.

What the files are, in the order in which data flows:

- `settings`: a configuration file; `datasets`, `chips`, `kappaset`, `cloudsen12`, `kept`: where
  labelled pixels come from; `teacher` and `targets`: what is believed of their labels;
- `crops` and `simulate`: augmented crops, with clouds put on clear ones;
- `learner`, `losses`, `validate`, `fit`: the network learning, judged as it does;
- `run_files`: what a run writes.
"""
