"""From records of single checks to a report: results, summary and verdict, and the forms it is written in."""
