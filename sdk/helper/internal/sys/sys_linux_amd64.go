package sys

const (
	nrFstatat      = 262
	nrRenameat     = 264
	nrSyncfs       = 306
	nrRenameat2    = 316
	nrStatx        = 332
	nrCopyRange    = 326
	nrLsetxattr    = 189
	nrLgetxattr    = 192
	nrLlistxattr   = 195
	nrLremovexattr = 198
)
