"""Spark in one machine: a dataset that is cached in the JVM, and worked on by Python's processes again and again."""

from pyspark.sql import SparkSession

context = SparkSession.builder.master("local[2]").getOrCreate().sparkContext
numbers = context.parallelize(range(1000), 2).cache()
counted = context.accumulator(0)
with open("/out", "a", buffering=1) as out:
    for step in range(1, 1_000_000):
        assert numbers.map(lambda number, step=step: number * step).sum() == step * 499_500
        numbers.foreach(lambda _: counted.add(1))
        assert counted.value == step * 1000
        print(step, file=out)
