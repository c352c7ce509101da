"""What parts of strategies put into models. torch is imported here, which plug-ins do only in a trial."""
