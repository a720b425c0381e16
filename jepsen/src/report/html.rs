//! The page: one file that needs nothing else.

use std::fmt::Write as _;

use super::timeline::Timeline;
use super::{charts, edn_line, seconds};
use crate::checker::Verdict;
use crate::runner::{TestOptions, TestRun};

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:1060px;margin:2em auto;\
padding:0 1em;color:#222;background:#fff}svg{width:100%;height:auto}svg text{font-size:11px;\
fill:currentColor}table{border-collapse:collapse}td,th{text-align:left;padding:.2em 1em .2em 0;\
border-bottom:1px solid #8884}pre{overflow-x:auto;background:#8882;padding:.6em}.valid{color:#2c6b3c}\
.invalid{color:#b8332e}@media(prefers-color-scheme:dark){body{color:#ddd;background:#181818}\
.valid{color:#7fc98f}.invalid{color:#f08a84}}";

/// Signs that mean something in HTML are spelt out.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The whole page.
pub(super) fn page(
    options: &TestOptions,
    run: &TestRun,
    verdict: &Verdict,
    timeline: &Timeline,
) -> String {
    let title = format!("{} + {}", options.workload.name(), options.nemesis.name());
    let mut page = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title>\
         <style>{STYLE}</style><h1>{title}</h1>"
    );
    let _ = write!(
        page,
        "<p>{} nodes, {} processes, {} operations a second, {} s, seed {}. {} operations were done, {} \
         certainly not, of {} it is not known. Latency of what was done: median {:.1} ms, 99 % {:.1} \
         ms, at most {:.0} ms.</p>",
        options.nodes,
        options.concurrency,
        options.rate,
        options.time.as_secs(),
        options.seed,
        timeline.ok,
        timeline.fail,
        timeline.info,
        timeline.p50,
        timeline.p99,
        timeline.max,
    );
    findings(&mut page, run, verdict);
    let _ = write!(
        page,
        "<h2>Latency</h2><p>Green: done. Yellow: certainly not done. Red: not known. Grey: a fault is \
         active (its name is shown under the pointer).</p>{}<p>Of each second: 50 % (blue), 95 % \
         (violet), 99 % (red), all (grey).</p>{}<h2>Operations a second</h2>{}",
        charts::points(timeline),
        charts::percentiles(timeline),
        charts::rates(timeline),
    );
    if timeline.clocks.values().any(|course| !course.is_empty()) {
        let _ = write!(
            page,
            "<h2>Clocks</h2><p>How far each node's wall clock is set off (its name is shown under the \
             pointer).</p>{}",
            charts::clocks(timeline),
        );
    }
    faults(&mut page, timeline);
    page + "</html>\n"
}

fn findings(page: &mut String, run: &TestRun, verdict: &Verdict) {
    let (class, word) = match (&run.trouble, verdict.is_valid()) {
        (None, true) => ("valid", "Valid"),
        (Some(_), true) => ("invalid", "Not finished: the cluster did not come to rest"),
        (_, false) => ("invalid", "Anomalies were found"),
    };
    let _ = write!(page, "<h2 class=\"{class}\">{word}</h2>");
    if let Some(trouble) = &run.trouble {
        let _ = write!(page, "<pre>{}</pre>", escaped(&trouble.to_string()));
    }
    page.push_str("<ul>");
    for note in &verdict.notes {
        let _ = write!(page, "<li>{}</li>", escaped(note));
    }
    for ((name, is_allowed), count) in &verdict.counts {
        let allowed = if *is_allowed { " (allowed)" } else { "" };
        let _ = write!(page, "<li><b>{count} x {}</b>{allowed}</li>", escaped(name));
    }
    page.push_str("</ul>");
    for anomaly in &verdict.anomalies {
        let allowed = if anomaly.is_allowed { ", allowed" } else { "" };
        let _ = write!(
            page,
            "<h3>{}{allowed}: key {}</h3><p>{}</p><pre>",
            escaped(anomaly.name),
            anomaly.key,
            escaped(&anomaly.message)
        );
        for line in anomaly.operations.iter().filter_map(|index| run.history.get(*index)) {
            let _ = writeln!(page, "{}", escaped(&edn_line(line)));
        }
        page.push_str("</pre>");
    }
}

fn faults(page: &mut String, timeline: &Timeline) {
    page.push_str(
        "<h2>Faults</h2><table><tr><th>fault</th><th>from</th><th>to</th><th>longest time without an \
         answer</th><th>first answer after healing</th></tr>",
    );
    for band in &timeline.bands {
        let recovery =
            band.recovery.map_or("none".to_owned(), |ns| format!("{} ms", ns / 1_000_000));
        let _ = write!(
            page,
            "<tr><td>{}</td><td>{:.1} s</td><td>{:.1} s</td><td>{} ms</td><td>{recovery}</td></tr>",
            escaped(&band.told),
            seconds(band.from),
            seconds(band.to),
            band.gap / 1_000_000,
        );
    }
    page.push_str("</table>");
}
