#!/bin/busybox sh
# The first process of the stand-in guest: plays a Windows machine's side of the protocol
# (tests/lab/src/vm/line.rs). `scene=` on the kernel's command line chooses the play.
/bin/busybox mkdir -p /proc /sys /dev /tmp /mnt /cd /usr/bin
/bin/busybox --install -s /usr/bin
export PATH=/usr/bin
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
for word in $(cat /proc/cmdline); do
    case $word in scene=*) scene=${word#scene=} ;; esac
done
while read -r module; do insmod "/modules/$module"; done < /modules/order

say() {
    printf '\r\nHUSHPORT %s %s\r\n' "$*" "$(printf %s "$*" | crc32)" > /dev/ttyS0
}

# The disks: the one with a partition is for results.
tries=0
until [ -e /dev/sda ] && [ -e /dev/sdb ] && { [ -e /dev/sda1 ] || [ -e /dev/sdb1 ]; }; do
    sleep 0.1
    tries=$((tries + 1))
    [ $tries -lt 300 ] || { say lost "the stand-in finds no disks"; poweroff -f; }
done
disk=/dev/sda results=/dev/sdb1
[ -e /dev/sdb1 ] || { disk=/dev/sdb results=/dev/sda1; }

# How often the machine has been started, in the first sector of its disk.
boot=$(dd if=$disk bs=512 count=1 2>/dev/null | tr -d '\0')
boot=${boot:-0}
printf %s $((boot + 1)) | dd of=$disk bs=512 conv=notrunc 2>/dev/null
sync

STEPS="Prepare Install Start Conformance Policy Trace Cycle Scan EnableStandard Settings-standard Start-standard
    Policy-standard Trace-standard Cycle-standard Scan-standard Query-standard EnableLowResources
    Settings-low-resources Cycle-low-resources Query-low-resources DisableVerifier Settings-off Collect Remove"

# A check of a step, and what is wrong with it.
check() {
    printf '{"Step":"%s","Name":"it","Failure":"%s"}\n' "$1" "$2" >> /mnt/checks.jsonl
}

# Announces steps from one to another; each has a check, which is well.
play() {
    local on=
    for step in $STEPS; do
        [ "$step" = "$1" ] && on=1
        [ -n "$on" ] || continue
        say step "$step"
        case $step in Scan | Scan-*) scan ;; esac
        check "$step" ""
        [ "$step" = "$2" ] && break
    done
}

restart() {
    say restart now
    sync
    reboot -f
}

finish() {
    say verdict "$1"
    echo "$1" > /mnt/verdict.txt
    umount /mnt
    say end now
    poweroff -f
}

network() {
    [ -n "$address" ] && return
    address=10.77.0.2
    ip link set lo up
    # Nobody else has these addresses.
    echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad
    ip link set eth0 up
    ip addr add $address/24 dev eth0
    ip -6 addr add fd77::2/64 dev eth0
}

# The scanner connects, and gets two requests.
scan() {
    case $scene in all | lie) ;; *) return ;; esac
    network
    rm -f /tmp/scanned
    nc -ll -p 47017 -e /scan.sh &
    waited=0
    until [ -e /tmp/scanned ] || [ $waited -gt 900 ]; do
        sleep 0.1
        waited=$((waited + 1))
    done
    kill $!
}

cat > /scan.sh <<'END'
#!/bin/busybox sh
ask() {
    echo "$1"
    read -r answer || exit 1
}
ask "families also=fd77::2,127.0.0.1,192.0.2.1"
ask "answered tcp=113,22222 udp=33333 open=47017 also=fd77::2"
grep -q scene=lie /proc/cmdline && ask "silent tcp=113"
echo done
touch /tmp/scanned
END
chmod +x /scan.sh

mount -t vfat $results /mnt || say lost "the stand-in cannot mount the disk for results"

case $scene-$boot in
all-0)
    # The medium that Windows Setup and the scripts need.
    for drive in /dev/sr0 /dev/sr1; do
        mount -t iso9660 -o ro $drive /cd && [ -e /cd/vm ] && break
        umount /cd
    done
    for file in autounattend.xml vm/machine.json vm/Start-TestMachine.ps1 vm/Hushport.Guest.psm1 package/hushport.sys; do
        [ -s /cd/$file ] || say lost "the medium has no $file"
    done
    # Setup runs the commands of the answer file.
    sed -n 's/.*&quot;&gt;COM1 echo \(HUSHPORT [^&]*\)&amp;.*/\1/p; s/.*">COM1 echo \(HUSHPORT [^&]*\)&amp;.*/\1/p; s/.*"&gt;COM1 echo \(HUSHPORT [^&]*\)&amp;.*/\1/p' \
        /cd/autounattend.xml > /tmp/setup
    while read -r line; do printf '%s\r\n' "$line" > /dev/ttyS0; done < /tmp/setup
    [ "$(wc -l < /tmp/setup)" = 2 ] || say lost "the answer file has not two notes"
    # Without a word, as Setup does.
    reboot -f
    ;;
all-1)
    say setup first-logon
    say boot "a stand-in"
    play Prepare Prepare
    restart
    ;;
all-2)
    say boot "a stand-in"
    say log "a line of the log"
    play Install Remove
    finish "24 passed, 0 failed"
    ;;
crash-0)
    say boot "a stand-in"
    play Prepare Install
    say step Start
    sync
    echo b > /proc/sysrq-trigger
    ;;
crash-1)
    say boot "a stand-in"
    say dump "MEMORY.DMP of today"
    echo dump > /mnt/MEMORY.DMP
    check Start "it restarted during this step"
    play Conformance Remove
    finish "23 passed, 1 failed"
    ;;
hang-0)
    say boot "a stand-in"
    play Prepare Install
    sync
    say step Start
    say log "the last line"
    ;;
garbage-0)
    dd if=/dev/urandom of=/dev/ttyS0 bs=512 count=16 2>/dev/null
    printf 'HUSHPORT verdict 99 passed, 0 failed 00000000\r\nHUSHPORT end now\r\n' > /dev/ttyS0
    say boot "a stand-in"
    for step in $STEPS; do
        printf 'HUSHPORT step %s' "$step" > /dev/ttyS0
        head -c 40 /dev/urandom > /dev/ttyS0
        play "$step" "$step"
    done
    finish "24 passed, 0 failed"
    ;;
lie-0)
    say boot "a stand-in"
    play Prepare Start
    play Policy Remove
    check Start "it does not stop"
    finish "99 passed, 0 failed"
    ;;
full-0)
    say boot "a stand-in"
    play Prepare Remove
    echo "24 passed, 0 failed" > /mnt/verdict.txt
    sync
    dd if=/dev/zero of=/mnt/MEMORY.DMP bs=1M 2>/tmp/error || say lost "MEMORY.DMP: $(grep -o 'No space left on device' /tmp/error)"
    finish "24 passed, 0 failed"
    ;;
off-0)
    say boot "a stand-in"
    play Prepare Trace
    poweroff -f
    ;;
loop-*)
    say boot "a stand-in"
    echo b > /proc/sysrq-trigger
    ;;
pause-0)
    say boot "a stand-in"
    play Prepare Cycle
    say log "it waits"
    # Ctrl-C comes now, and the machine goes on from here.
    sleep 8
    say log "it goes on"
    play EnableStandard Remove
    check Scan ""
    say step Scan
    finish "24 passed, 0 failed"
    ;;
*)
    say lost "the stand-in has no scene $scene-$boot"
    poweroff -f
    ;;
esac
while true; do sleep 60; done
