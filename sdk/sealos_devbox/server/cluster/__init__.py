"""Of the cluster's API what a client with a kubeconfig needs: boxes, pods, exec."""
