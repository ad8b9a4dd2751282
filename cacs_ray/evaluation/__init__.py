"""From a bundle's scores on a log to a report, and from reports to a verdict."""
