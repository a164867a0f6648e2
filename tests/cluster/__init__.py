"""A real Kubernetes on one machine for tests: etcd, kube-apiserver, kubelet, containerd."""
