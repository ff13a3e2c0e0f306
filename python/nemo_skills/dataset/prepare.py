"""`ns dataset prepare` under its documented Python name."""
import os
import sys

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    from nemo_skills._ns import become

    become("dataset", "prepare")
