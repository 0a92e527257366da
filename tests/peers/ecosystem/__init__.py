"""The checks of `check_ecosystem.py`: one file for each kind of script that people have for a BEiT of transformers."""
