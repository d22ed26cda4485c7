"""Control totals of the demo, apart from all Rust: the CSV files, added up, times the days.

Usage: control_totals.py DIRECTORY DAYS
Prints one line a meter: its name and its total.
"""
import csv
import sys


def totals(directory: str, days: int) -> dict[str, int]:
    sums: dict[str, int] = {}
    for name, model in (("conv.csv", "chat"), ("code.csv", "code")):
        with open(f"{directory}/{name}", newline="") as file:
            for row in csv.DictReader(file):
                for column, kind in (("ContextTokens", "input"), ("GeneratedTokens", "output")):
                    meter = f"{model}-{kind}"
                    sums[meter] = sums.get(meter, 0) + int(row[column])
    return {meter: total * days for meter, total in sums.items()}


if __name__ == "__main__":
    for meter, total in sorted(totals(sys.argv[1], int(sys.argv[2])).items()):
        print(meter, total)
