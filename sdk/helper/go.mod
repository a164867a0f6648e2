module sealos.io/devbox-helper

go 1.23
