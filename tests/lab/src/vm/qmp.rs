//! QEMU's machine protocol (QMP): commands, events and pictures of the screen.

use std::io::{BufRead, BufReader, BufWriter, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

/// How long QEMU may take to answer.
const PATIENCE: Duration = Duration::from_secs(60);

/// A connection. Events go to the function that [`Qmp::connect`] got.
pub struct Qmp {
    stream: UnixStream,
    answers: Receiver<Value>,
    next: u64,
}

impl Qmp {
    /// Connects to a socket, which QEMU may have yet to make, and calls `event` with
    /// each event.
    ///
    /// # Errors
    /// If nobody listens within the time, or it is not QMP.
    pub fn connect(
        path: &Path,
        patience: Duration,
        mut event: impl FnMut(Value) + Send + 'static,
    ) -> Result<Self> {
        let stream = connect(path, patience)?;
        let (sender, answers) = mpsc::channel();
        let reader = BufReader::new(stream.try_clone()?);
        std::thread::Builder::new().name("qmp".into()).spawn(move || {
            read(reader, &sender, &mut event);
        })?;
        let mut qmp = Self { stream, answers, next: 0 };
        qmp.run("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Runs a command and returns its result.
    ///
    /// # Errors
    /// If QEMU refuses it, is gone, or does not answer.
    pub fn run(&mut self, command: &str, arguments: &Value) -> Result<Value> {
        self.next += 1;
        let id = self.next;
        let text = json!({ "execute": command, "arguments": arguments, "id": id }).to_string();
        self.stream.write_all(text.as_bytes()).with_context(|| format!("QMP {command}: QEMU is gone"))?;
        loop {
            let answer = match self.answers.recv_timeout(PATIENCE) {
                Ok(answer) => answer,
                Err(RecvTimeoutError::Timeout) => bail!("QMP {command}: no answer within {PATIENCE:?}"),
                Err(RecvTimeoutError::Disconnected) => bail!("QMP {command}: QEMU is gone"),
            };
            // An answer that came too late for an earlier command.
            if answer["id"] != id {
                continue;
            }
            if let Some(error) = answer["error"]["desc"].as_str() {
                bail!("QMP {command}: {error}");
            }
            return Ok(answer["return"].clone());
        }
    }

    /// Presses and releases a key, by QEMU's name for it.
    pub fn press(&mut self, key: &str) -> Result<()> {
        let keys = json!({ "keys": [{ "type": "qcode", "data": key }] });
        self.run("send-key", &keys).map(drop)
    }

    /// Writes a picture of the screen as a PNG file.
    pub fn screen(&mut self, file: &Path) -> Result<()> {
        // QEMU writes PNG only since version 7.1, so this is a PPM file.
        let picture = tempfile::Builder::new().suffix(".ppm").tempfile()?;
        self.run("screendump", &json!({ "filename": picture.path() }))?;
        let bytes = std::fs::read(picture.path())?;
        png_of(&bytes, file).with_context(|| format!("cannot write {}", file.display()))
    }

    /// Pauses the machine and writes its state to a file. QEMU ends with
    /// [`Qmp::quit`].
    pub fn save(&mut self, file: &Path, limit: Duration) -> Result<()> {
        let name = file.to_str().filter(|name| !name.contains('\''));
        let name = name.with_context(|| format!("{}: a quotation mark in the name", file.display()))?;
        self.run("stop", &json!({}))?;
        // As fast as the disk: the default is a network's speed.
        self.run("migrate-set-parameters", &json!({ "max-bandwidth": 4_000_000_000_u64 }))?;
        self.run("migrate", &json!({ "uri": format!("exec:cat > '{name}'") }))?;
        let end = Instant::now() + limit;
        loop {
            let state = self.run("query-migrate", &json!({}))?;
            match state["status"].as_str() {
                Some("completed") => return Ok(()),
                Some("failed" | "cancelled") => bail!("QEMU cannot save the machine: {state}"),
                _ if Instant::now() > end => bail!("the machine is not saved within {limit:?}"),
                _ => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    /// Ends QEMU.
    pub fn quit(&mut self) {
        // QEMU may close the connection before it answers.
        let _gone = self.run("quit", &json!({}));
    }
}

/// Connects to a socket that another process is about to make.
pub fn connect(path: &Path, patience: Duration) -> Result<UnixStream> {
    let end = Instant::now() + patience;
    loop {
        match UnixStream::connect(path) {
            Ok(stream) => return Ok(stream),
            Err(error) if Instant::now() > end => {
                return Err(error).with_context(|| format!("nobody listens at {}", path.display()));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Reads messages until QEMU is gone.
fn read(reader: impl BufRead, answers: &Sender<Value>, event: &mut impl FnMut(Value)) {
    for line in reader.lines() {
        let Ok(message) = line.map_err(drop).and_then(|line| serde_json::from_str(&line).map_err(drop))
        else {
            return;
        };
        let message: Value = message;
        if message.get("event").is_some() {
            event(message);
        } else if message.get("QMP").is_none() && answers.send(message).is_err() {
            return;
        }
    }
}

/// Writes a PPM picture with 8 bits for each of three colours as a PNG file.
fn png_of(ppm: &[u8], file: &Path) -> Result<()> {
    let (width, height, pixels) = ppm_parts(ppm).context("QEMU's picture is not PPM")?;
    let mut encoder = png::Encoder::new(BufWriter::new(std::fs::File::create(file)?), width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels)?;
    Ok(writer.finish()?)
}

/// Width, height and pixels: `P6 WIDTH HEIGHT 255`, one white space, the pixels (netpbm,
/// ppm(5)).
fn ppm_parts(ppm: &[u8]) -> Option<(u32, u32, &[u8])> {
    let mut rest = ppm.strip_prefix(b"P6")?;
    let mut numbers = [0_u32; 3];
    for number in &mut numbers {
        let begin = rest.iter().position(|byte| !byte.is_ascii_whitespace())?;
        let end = begin + rest[begin..].iter().position(u8::is_ascii_whitespace)?;
        *number = std::str::from_utf8(&rest[begin..end]).ok()?.parse().ok()?;
        rest = &rest[end..];
    }
    let [width, height, most] = numbers;
    let size = usize::try_from(width).ok()?.checked_mul(usize::try_from(height).ok()?)?.checked_mul(3)?;
    (most == 255).then_some(())?;
    Some((width, height, rest.get(1..)?.get(..size)?))
}

/// Writes a picture of the screen of the machine whose socket this is.
///
/// # Errors
/// If no machine runs there.
pub fn screen_of(socket: &Path, file: &Path) -> Result<()> {
    ensure!(socket.exists(), "no machine runs there: {} does not exist", socket.display());
    Qmp::connect(socket, Duration::from_secs(2), |_| {})?.screen(file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_picture_keeps_its_pixels() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("screen.png");
        let mut ppm = b"P6\n2 1\n255\n".to_vec();
        ppm.extend([1, 2, 3, 250, 251, 252]);
        png_of(&ppm, &file).unwrap();
        let decoder = png::Decoder::new(std::io::BufReader::new(std::fs::File::open(&file).unwrap()));
        let mut reader = decoder.read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height, &pixels[..6]), (2, 1, &[1, 2, 3, 250, 251, 252][..]));
        for wrong in [&b"P5\n2 1\n255\n123456"[..], b"P6\n2 1\n255\n12345", b"P6\n2 1\n65535\n123456", b""] {
            png_of(wrong, &file).unwrap_err();
        }
    }

    /// Plays QEMU: a greeting, an event between question and answer, a late answer, an
    /// error, and the end.
    #[test]
    fn answers_belong_to_their_commands() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        let qemu = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut questions =
                serde_json::Deserializer::from_reader(stream.try_clone().unwrap()).into_iter::<Value>();
            writeln!(stream, r#"{{"QMP": {{"version": {{}}}}}}"#).unwrap();
            for reply in [
                r#"{"return": {}, "id": 1}"#,
                "{\"event\": \"RESET\"}\n{\"return\": {\"old\": 1}, \"id\": 1}\n{\"return\": {\"status\": \"running\"}, \"id\": 2}",
                r#"{"error": {"class": "GenericError", "desc": "no such thing"}, "id": 3}"#,
            ] {
                questions.next().unwrap().unwrap();
                writeln!(stream, "{reply}").unwrap();
            }
        });
        let (sender, events) = mpsc::channel();
        let event = move |event: Value| sender.send(event).unwrap();
        let mut qmp = Qmp::connect(&path, Duration::from_secs(5), event).unwrap();
        assert_eq!(qmp.run("query-status", &json!({})).unwrap()["status"], "running");
        assert_eq!(events.recv().unwrap()["event"], "RESET");
        let error = qmp.run("dance", &json!({})).unwrap_err();
        assert_eq!(error.to_string(), "QMP dance: no such thing");
        qemu.join().unwrap();
        let error = qmp.run("query-status", &json!({})).unwrap_err();
        assert!(error.to_string().ends_with("QEMU is gone"), "{error}");
    }
}
