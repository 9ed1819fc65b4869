use std::{fs::OpenOptions, io::Write, sync::mpsc, thread, time::Duration};

/// Two threads hand a number to and fro.
fn main() {
    let (to, from_here) = mpsc::channel::<u64>();
    let (back, answers) = mpsc::channel::<u64>();
    thread::spawn(move || {
        for number in from_here {
            back.send(number + 1).unwrap();
        }
    });
    let mut out = OpenOptions::new().create(true).append(true).open("/out").unwrap();
    let mut number = 0;
    loop {
        to.send(number).unwrap();
        number = answers.recv().unwrap();
        writeln!(out, "{number}").unwrap();
        thread::sleep(Duration::from_millis(30));
    }
}
