"""A report in three dresses: JSON for programs, Markdown for terminals and reviews, HTML with pictures for people."""
