import java.nio.file.*;
import java.util.concurrent.*;

/** Counts in a pool of threads and makes garbage, so that the collector works. */
public class Count {
    public static void main(String[] arguments) throws Exception {
        ExecutorService pool = Executors.newFixedThreadPool(4);
        ConcurrentHashMap<Integer, byte[]> kept = new ConcurrentHashMap<>();
        for (int number = 0; ; ) {
            final int before = number;
            number = pool.submit(() -> { kept.put(before % 500, new byte[20000]); return before + 1; }).get();
            Files.writeString(Path.of("/out"), number + "\n", StandardOpenOption.CREATE, StandardOpenOption.APPEND);
            Thread.sleep(30);
        }
    }
}
