"""One fedpeft plug-in of every kind, each as small as it can be and still be of use."""
