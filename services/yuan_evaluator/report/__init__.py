"""A report in three dresses: JSON for programs, Markdown for the terminal and reviews, HTML with pictures for people."""
