package sys

// arm64 has no renameat of its own: renameat2 without flags is the same.
const (
	nrFstatat      = 79
	nrRenameat     = 276
	nrSyncfs       = 267
	nrRenameat2    = 276
	nrStatx        = 291
	nrCopyRange    = 285
	nrLsetxattr    = 6
	nrLgetxattr    = 9
	nrLlistxattr   = 12
	nrLremovexattr = 15
)
