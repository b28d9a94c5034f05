//! `bsfs status --watch`: the mounts, second by second.

use std::collections::HashMap;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bsfs::mount::{self, MountRecord, Status};
use bsfs::source::BOUNDS;
use bsfs::{Error, Result};
use ratatui::Frame;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::out::shorten;
use super::size::show_size;

/// Time between two looks.
const EVERY: Duration = Duration::from_secs(1);
/// Lines of a mount without its lists.
const FIGURES: usize = 9;
/// Problems of a mount that are shown.
const PROBLEMS: usize = 2;
/// Characters of a bar.
const BAR: usize = 20;

/// What a mount said at a moment.
struct Look {
    at: Instant,
    status: Status,
}

/// Shows the view until somebody presses q, Escape or Ctrl-C.
pub fn run(only: Option<&Path>) -> Result<ExitCode> {
    if !io::stdout().is_terminal() {
        return Err(Error::invalid("--watch is for a terminal; use --json"));
    }
    // What is wrong is said on the ordinary screen.
    mount::mounts(only)?;
    let failed = |e| Error::io("use", "the terminal")(e);
    let mut terminal = ratatui::try_init().map_err(failed)?;
    let done = follow(&mut terminal, only);
    ratatui::restore();
    done.map(|()| ExitCode::SUCCESS)
}

fn follow(terminal: &mut ratatui::DefaultTerminal, only: Option<&Path>) -> Result<()> {
    let failed = |e| Error::io("use", "the terminal")(e);
    let mut before: HashMap<PathBuf, Look> = HashMap::new();
    loop {
        // A mount that was unmounted meanwhile is no error of the view.
        let records = mount::mounts(only).unwrap_or_default();
        let now = Instant::now();
        terminal.draw(|frame| draw(frame, &records, &before, now)).map_err(failed)?;
        before = records
            .into_iter()
            .filter_map(|record| Some((record.mount_point, Look { at: now, status: record.status? })))
            .collect();
        let next = now + EVERY;
        loop {
            let left = next.saturating_duration_since(Instant::now());
            if left.is_zero() || !event::poll(left).map_err(failed)? {
                break;
            }
            match event::read().map_err(failed)? {
                Event::Key(key) if key.kind == KeyEventKind::Press => {
                    let ctrl_c = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
                    if ctrl_c || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc) {
                        return Ok(());
                    }
                }
                Event::Resize(..) => break,
                _ => {}
            }
        }
    }
}

fn draw(frame: &mut Frame<'_>, records: &[MountRecord], before: &HashMap<PathBuf, Look>, now: Instant) {
    let area = frame.area();
    let width = usize::from(area.width);
    let mut lines = Vec::new();
    let room = usize::from(area.height).saturating_sub(1);
    // What is left when each mount has its figures, for its lists.
    let live_mounts = records.iter().filter(|record| record.status.is_some()).count();
    let figures = live_mounts * FIGURES + 2 * records.len().saturating_sub(1);
    let lists = room.saturating_sub(figures) / live_mounts.max(1);
    for record in records {
        if !lines.is_empty() {
            lines.push(Line::default());
        }
        match &record.status {
            Some(status) => {
                let begun = lines.len();
                live(&mut lines, record, status, before.get(&record.mount_point), now, width);
                // Fewer or more lines than usual, as with a server's, are the lists' business.
                let extra = (lines.len() - begun).saturating_sub(FIGURES);
                both(&mut lines, status, lists.saturating_sub(extra), width);
            }
            None => {
                let text = format!("{}  ({})", record.mount_point.display(), record.state);
                lines.push(Line::styled(shorten(&text, width), Style::new().add_modifier(Modifier::BOLD)));
            }
        }
    }
    if records.is_empty() {
        lines.push("no bsfs mounts".into());
    }
    if lines.len() > room {
        lines.truncate(room.saturating_sub(1));
        lines.push("more mounts; name one to see it alone".into());
    }
    lines.resize(room, Line::default());
    lines.push(Line::styled("q ends", Style::new().add_modifier(Modifier::DIM)));
    frame.render_widget(Paragraph::new(lines), area);
}

/// The lines of one mount.
fn live(
    lines: &mut Vec<Line<'_>>,
    record: &MountRecord,
    s: &Status,
    before: Option<&Look>,
    now: Instant,
    width: usize,
) {
    let e = &s.engine;
    // A daemon that was started anew counts from 0.
    let before = before.filter(|look| look.status.pid == s.pid);
    let seconds = before.map_or(0.0, |look| now.duration_since(look.at).as_secs_f64());
    let rate = |of: fn(&Status) -> f64| match before {
        Some(look) if seconds > 0.0 => (of(s) - of(&look.status)).max(0.0) / seconds,
        _ => 0.0,
    };
    let speed = |of: fn(&Status) -> f64| format!("{:>7.2} GB/s", rate(of) / 1e9);
    let well = match s.problems.len() {
        0 => "ok".to_owned(),
        1 => "a problem".to_owned(),
        n => format!("{n} problems"),
    };
    let title = format!("{} ← {}  ({well})", record.mount_point.display(), record.source.display());
    lines.push(Line::styled(shorten(&title, width), Style::new().add_modifier(Modifier::BOLD)));
    let mut row = |name: &'static str, text: String| {
        let name = Span::styled(format!("  {name:<9}"), Style::new().add_modifier(Modifier::DIM));
        lines.push(Line::from(vec![name, Span::raw(text)]));
    };
    for problem in s.problems.iter().take(PROBLEMS) {
        row("problem", shorten(problem, width.saturating_sub(12)));
    }
    row(
        "now",
        format!(
            "served {}   decoded {}   source {}",
            speed(|s| s.read_bytes as f64),
            speed(|s| s.engine.decoded_bytes as f64),
            speed(|s| s.engine.packed_bytes_read as f64)
        ),
    );
    let cores = rate(|s| s.engine.decode_seconds);
    row("threads", format!("{cores:.1} decode, {:.1} wait for another", rate(|s| s.engine.wait_seconds)));
    row("served", format!("{} in {} reads; {} files open", show_size(s.read_bytes), s.reads, s.open_files));
    let disk = s.disk.as_ref().map_or_else(|| "no disk cache".to_owned(), |disk| format!("{} disk", disk.hits));
    row("chunks", format!("{} memory, {disk}, {} decoded, {} left memory", e.hits, e.decoded_chunks, e.evicted_chunks));
    let [used, wasted, window] = [e.ahead_used_bytes, e.ahead_wasted_bytes, e.ahead_window].map(show_size);
    row("ahead", format!("{used} read, {wasted} for nothing; window {window} a stream"));
    row(
        "memory",
        format!(
            "{} {} of {}",
            bar(e.buffer_bytes, e.memory_limit),
            show_size(e.buffer_bytes),
            show_size(e.memory_limit)
        ),
    );
    let [half, most, worst] = [0.5, 0.99, 1.0].map(|part| within(&s.requests.of("read").classes, part));
    row("reads", format!("half within {half}, 99 % within {most}, all within {worst}"));
    if let Some(remote) = &s.remote {
        let state = if remote.down { "does not answer" } else { "answers" };
        let (requests, window) = (remote.requests, remote.window);
        row("server", format!("{state}; {requests} requests for {}, window {window}", show_size(remote.bytes)));
    }
    if let Some(warming) = &s.warming {
        let state = if warming.finished { "done" } else { "under way" };
        row("warming", format!("{state}: {} of {} files kept", warming.files_kept, warming.files));
    }
    row("errors", format!("{}; {} panics; up {} s", s.errors, s.panics, s.uptime_seconds));
}

/// The lists of a mount, in `room` lines: the slowest reads and the files of which most was read.
fn both(lines: &mut Vec<Line<'_>>, s: &Status, room: usize, width: usize) {
    let heading = |text: &str| Line::styled(format!("  {text}"), Style::new().add_modifier(Modifier::DIM));
    // A heading each; half for each, but what the one does not need the other has.
    let Some(room) = room.checked_sub(2).filter(|room| *room >= 2) else { return };
    let files = s.busy_files.len().min((room / 2).max(room.saturating_sub(s.slow_reads.len())));
    let slow = s.slow_reads.len().min(room - files);
    if files > 0 {
        lines.push(heading("files by bytes served"));
    }
    for file in s.busy_files.iter().take(files) {
        let text = format!("  {:>11}  {:>8} reads  ", show_size(file.bytes), file.reads);
        lines.push(Line::raw(format!("{text}{}", shorten(&file.file, width.saturating_sub(text.chars().count())))));
    }
    if slow > 0 {
        lines.push(heading("slowest reads of five minutes: time, why, when, where"));
    }
    for read in s.slow_reads.iter().take(slow) {
        let (time, length) = (format!("{:.3} s", read.seconds), show_size(read.length.into()));
        let text = format!("  {time:>11}  {:<10} {:>3} s ago  {length} at {} of ", read.why, read.ago, read.offset);
        lines.push(Line::raw(format!("{text}{}", shorten(&read.file, width.saturating_sub(text.chars().count())))));
    }
}

fn bar(part: u64, whole: u64) -> String {
    let filled = (part as f64 / whole.max(1) as f64 * BAR as f64).round().clamp(0.0, BAR as f64) as usize;
    format!("[{}{}]", "#".repeat(filled), "·".repeat(BAR - filled))
}

/// The bound of the class that this part of all reads was within.
fn within(times: &[u64], part: f64) -> String {
    let all: u64 = times.iter().sum();
    let wanted = (all as f64 * part).ceil() as u64;
    let mut sum = 0;
    for (at, count) in times.iter().enumerate() {
        sum += count;
        if sum >= wanted && wanted > 0 {
            return match BOUNDS.get(at) {
                Some(micros @ 0..1000) => format!("{micros} µs"),
                Some(micros @ 1000..1_000_000) => format!("{} ms", micros / 1000),
                Some(micros) => format!("{} s", micros / 1_000_000),
                None => "more than 10 s".to_owned(),
            };
        }
    }
    "–".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn shown(records: &[MountRecord]) -> String {
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        terminal.draw(|frame| draw(frame, records, &HashMap::new(), Instant::now())).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn classes_of_times_are_named() {
        let mut times = vec![0; BOUNDS.len() + 1];
        assert_eq!(within(&times, 0.5), "–");
        times[2] = 98;
        times[6] = 1;
        times[BOUNDS.len()] = 1;
        assert_eq!([0.5, 0.99, 1.0].map(|part| within(&times, part)), ["100 µs", "10 ms", "more than 10 s"]);
        assert_eq!((bar(5, 10).len(), bar(99, 10)), (BAR / 2 + 2 * (BAR / 2) + 2, format!("[{}]", "#".repeat(BAR))));
    }

    #[test]
    fn mounts_that_do_not_answer_are_shown_and_too_many_are_said() {
        let dead = |n: usize| MountRecord {
            mount_point: format!("/mnt/{n}").into(),
            source: "/x".into(),
            state: "dead".into(),
            status: None,
        };
        let text = shown(&[dead(1)]);
        assert!(text.contains("/mnt/1  (dead)") && text.contains("q ends"), "{text}");
        let text = shown(&(0..40).map(dead).collect::<Vec<_>>());
        assert!(text.contains("more mounts") && text.contains("q ends"), "{text}");
        assert!(shown(&[]).contains("no bsfs mounts"));
    }
}
