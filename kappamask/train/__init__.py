"""Training of the own network.

What the files are, in the order in which data flows:

- `settings`: a configuration file; `datasets`, `chips`, `kappaset`, `cloudsen12`: where labelled
  pixels come from;
- `series`, `teacher`, `targets`: what is believed of their labels;
- `noise`, `air`, `ground`, `outlines`, `simulate`: other clear ground, and clouds put on it;
- `crops`: chips as augmented crops; `learner`, `validate`, `fit`: the network learning, judged as
  it does; `run_files`: what a run writes.
"""
