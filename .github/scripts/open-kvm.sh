#!/bin/sh
# Lets every user open /dev/kvm, if the machine has it.
set -eu
echo 'KERNEL=="kvm", GROUP="kvm", MODE="0666", OPTIONS+="static_node=kvm"' > /etc/udev/rules.d/99-kvm.rules
udevadm control --reload-rules
udevadm trigger --name-match=kvm
