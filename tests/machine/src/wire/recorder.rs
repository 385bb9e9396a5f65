//! Records the packets on a wire, to write pcap files and to count them.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};
use pcap_file::{DataLink, Endianness, PcapError, TsResolution};

use super::{Family, Parsed, TcpFlags, Transport, Waker, Wire};

/// The direction of a packet, seen from the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Way {
    ToHost,
    FromHost,
}

/// A packet with its time.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct Captured {
    /// The time since 1970.
    pub at: Duration,
    pub way: Way,
    pub bytes: Vec<u8>,
}

#[derive(Default)]
struct Kept {
    packets: VecDeque<Captured>,
    bytes: usize,
    forgotten: u64,
}

/// The packets of both directions. If the memory limit is reached, the oldest are
/// dropped.
pub struct Recorder {
    limit: usize,
    kept: Mutex<Kept>,
}

impl Recorder {
    /// Records at most `limit` bytes of packets.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, kept: Mutex::default() })
    }

    /// Adds a packet with the current time.
    pub fn record(&self, way: Way, bytes: &[u8]) {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.bytes += bytes.len();
        kept.packets.push_back(Captured { at, way, bytes: bytes.to_vec() });
        while kept.bytes > self.limit {
            let Some(oldest) = kept.packets.pop_front() else {
                break;
            };
            kept.bytes -= oldest.bytes.len();
            kept.forgotten += 1;
        }
    }

    /// The number of packets that were dropped; counts are complete only if it is
    /// 0.
    pub fn forgotten(&self) -> u64 {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.forgotten
    }

    /// Drops all packets.
    pub fn clear(&self) {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Kept::default();
    }

    /// A copy of all packets.
    pub fn packets(&self) -> Vec<Captured> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.packets.iter().cloned().collect()
    }

    /// The number of IP packets in direction `way` that satisfy the predicate.
    pub fn count(&self, way: Way, predicate: impl Fn(&Parsed<'_>) -> bool) -> usize {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.packets
            .iter()
            .filter(|packet| packet.way == way)
            .filter_map(|packet| Parsed::new(&packet.bytes))
            .filter(|packet| predicate(packet))
            .count()
    }

    /// The number of RSTs that the host has sent.
    pub fn resets(&self, family: Family) -> usize {
        self.count(Way::FromHost, |packet| {
            packet.family() == family && packet.has_flags(TcpFlags::RST, TcpFlags::default())
        })
    }

    /// The number of SYN-ACKs that the host has sent.
    pub fn syn_acks(&self, family: Family) -> usize {
        self.count(Way::FromHost, |packet| {
            packet.family() == family && packet.has_flags(TcpFlags::SYN | TcpFlags::ACK, TcpFlags::RST)
        })
    }

    /// The number of ICMP errors that the host has sent for a port or a protocol
    /// (RFC 792: type 3, codes 2 and 3; RFC 4443: type 1 code 4, type 4 code 1).
    pub fn unreachables(&self, family: Family) -> usize {
        self.count(Way::FromHost, |packet| {
            let Transport::Icmp { kind, code, .. } = packet.transport else {
                return false;
            };
            let telling: &[(u8, u8)] = match family {
                Family::V4 => &[(3, 2), (3, 3)],
                Family::V6 => &[(1, 4), (4, 1)],
            };
            packet.family() == family && telling.contains(&(kind, code))
        })
    }

    /// Writes all packets as a pcap file of raw IP packets.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write_pcap(&self, writer: impl Write) -> io::Result<()> {
        let header = PcapHeader {
            datalink: DataLink::RAW,
            ts_resolution: TsResolution::NanoSecond,
            endianness: Endianness::Little,
            ..PcapHeader::default()
        };
        let to_io = |error: PcapError| match error {
            PcapError::IoError(error) => error,
            other => io::Error::other(other.to_string()),
        };
        let mut pcap = PcapWriter::with_header(writer, header).map_err(to_io)?;
        for packet in self.packets() {
            let length = packet.bytes.len() as u32;
            pcap.write_packet(&PcapPacket::new(packet.at, length, &packet.bytes)).map_err(to_io)?;
        }
        pcap.into_writer().flush()
    }
}

/// The host's end of a wire, with a recorder.
pub struct Recording<W> {
    wire: W,
    recorder: Arc<Recorder>,
}

impl<W: Wire> Recording<W> {
    /// Records the packets of `wire`.
    pub fn new(wire: W, recorder: Arc<Recorder>) -> Self {
        Self { wire, recorder }
    }
}

impl<W: Wire> Wire for Recording<W> {
    fn read(&mut self, packet: &mut Vec<u8>) -> io::Result<bool> {
        let read = self.wire.read(packet)?;
        if read {
            self.recorder.record(Way::ToHost, packet);
        }
        Ok(read)
    }

    fn write(&mut self, packet: &[u8]) -> io::Result<()> {
        self.recorder.record(Way::FromHost, packet);
        self.wire.write(packet)
    }

    fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        self.wire.wait(timeout)
    }

    fn waker(&mut self) -> Option<Waker> {
        self.wire.waker()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::MemoryWire;
    use etherparse::PacketBuilder;
    use pcap_file::pcap::PcapReader;

    fn reset() -> Vec<u8> {
        let mut packet = Vec::new();
        PacketBuilder::ipv4([10, 77, 0, 2], [10, 77, 0, 1], 64)
            .tcp(80, 40_000, 0, 0)
            .rst()
            .write(&mut packet, &[])
            .unwrap();
        packet
    }

    #[test]
    fn counts_by_way_and_reads_back_from_pcap() {
        let (host, mut peer) = MemoryWire::pair();
        let recorder = Recorder::new(1 << 20);
        let mut host = Recording::new(host, recorder.clone());
        peer.write(&reset()).unwrap();
        assert!(host.read(&mut Vec::new()).unwrap());
        assert_eq!(recorder.resets(Family::V4), 0, "it came from the network");
        host.write(&reset()).unwrap();
        assert_eq!(recorder.resets(Family::V4), 1);
        assert_eq!(recorder.resets(Family::V6), 0);
        assert_eq!(recorder.syn_acks(Family::V4), 0);

        let mut file = Vec::new();
        recorder.write_pcap(&mut file).unwrap();
        let mut reader = PcapReader::new(&file[..]).unwrap();
        assert_eq!(reader.header().datalink, DataLink::RAW);
        let mut read = 0;
        while let Some(packet) = reader.next_packet() {
            assert_eq!(*packet.unwrap().data, reset());
            read += 1;
        }
        assert_eq!(read, 2);
    }

    #[test]
    fn memory_is_bounded() {
        let recorder = Recorder::new(100);
        for _ in 0..10 {
            recorder.record(Way::ToHost, &reset());
        }
        assert_eq!(recorder.packets().len(), 2);
        assert_eq!(recorder.forgotten(), 8);
    }
}
